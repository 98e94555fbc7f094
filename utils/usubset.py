"""Which faces are scored: a split of a data set, or those of it that a list names."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from utils.udata import IMAGE_SUFFIXES, DatasetError, FaceDataset


class Subset(NamedTuple):
    """Faces chosen by a list of names.

    Attributes:
        faces: the part of the data set.
        whole: number of faces of the data set.
        listed: number of different names in the list.
        unknown: names that no face has.
    """

    faces: FaceDataset
    whole: int
    listed: int
    unknown: list[str]


class Faces(NamedTuple):
    """The faces that checkpoints are scored on, as results should name them.

    Attributes:
        dataset: the faces.
        split: their part of the data set.
        label_rule: how annotations became labels.
        subset: how they were chosen, or None for all of the split.
        root: folder that file names are relative to.
    """

    dataset: FaceDataset
    split: str
    label_rule: str
    subset: Subset | None
    root: Path

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        subset = self.subset
        return {
            "data": self.dataset.name,
            "split": self.split,
            "label_rule": self.label_rule,
            "n": len(self.dataset),
            "subset": subset
            and {"of": subset.whole, "names_listed": subset.listed, "names_not_in_the_data_set": subset.unknown},
        }

    def file_name(self, path: Path) -> str:
        """Return a picture's file name relative to the data set's folder."""
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()


def select_faces(faces: FaceDataset, names_file: Path) -> Subset:
    """Keep the faces whose names stand in a file, in the data set's order.

    One name a line; whatever follows it after a space, comma or semicolon is left out, and so are empty lines and lines
    that begin with #. Names are compared without extension and without RAF-DB's "_aligned"; their folder counts only
    where several faces have the same name.

    Raises:
        FileNotFoundError: when there is no such file.
        DatasetError: when no name is in the data set, or a name fits several faces.
    """
    if not names_file.is_file():
        raise FileNotFoundError(f"no list of names at {names_file.absolute()}; expected one image name a line")
    try:
        lines = [line.strip() for line in names_file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DatasetError(f"{names_file} is no text file; expected one image name a line") from error
    names = list(dict.fromkeys(re.split(r"[\s,;]", line)[0] for line in lines if line and not line.startswith("#")))
    places = defaultdict(list)
    for place, path in enumerate(faces.paths):
        places[_bare(path.name)].append(place)
    chosen, unknown = set(), []
    for name in names:
        *folders, last = name.replace("\\", "/").split("/")
        found = places.get(_bare(last), [])
        if len(found) > 1:
            ending = tuple(folders)
            found = [f for f in found if ending and faces.paths[f].parent.parts[-len(ending) :] == ending]
            if len(found) != 1:
                raise DatasetError(
                    f"{names_file}: {name} fits {len(places[_bare(last)])} faces of {faces.name}, such as "
                    f"{faces.paths[places[_bare(last)][0]]}; write their folders before the name"
                )
        chosen.update(found)
        unknown += [] if found else [name]
    if not chosen:
        listed = ", ".join(names[:3]) or "nothing"
        raise DatasetError(
            f"none of the {len(names):,} names in {names_file} ({listed}) is a face of {faces.name}, "
            f"whose files are named like {faces.paths[0].name}; is it the list of another data set or split?"
        )
    part = faces.subset(sorted(chosen), f"{faces.name}, subset {names_file.stem}")
    return Subset(part, len(faces), len(names), unknown)


def _bare(name: str) -> str:
    stem = Path(name).stem if Path(name).suffix.lower() in IMAGE_SUFFIXES else name
    return stem.removesuffix("_aligned")
