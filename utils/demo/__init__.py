"""What drawn faces are made of: who is drawn and how, a pen, and the parts of a face."""
