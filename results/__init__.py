"""The study: does diversity help? Experiments, the list of runs, their numbers, tables and plots."""
