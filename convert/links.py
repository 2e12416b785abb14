"""Symbolic links in a source: those of the hub's cache are followed, those that lead elsewhere are not."""

from pathlib import Path

from convert.carry import TEMPLATES, list_carried
from convert.errors import ConvertError


def check_links(folder: Path) -> None:
    """Check that every file the conversion reads or copies lies in the checkpoint itself.

    A checkpoint from elsewhere may hold a ``tokenizer.json`` that is a link to a private file here; copied
    into the result it would be published with it. The hub's cache links from ``snapshots/*`` to ``blobs``.

    Args:
        folder: The source checkpoint.

    Raises:
        ConvertError: a link leads out of the checkpoint and its blobs, or in a circle.
    """
    home = folder.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    names = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".json")]
    for path in [*names, folder / TEMPLATES, *(folder / name for name in list_carried(folder))]:
        if not path.is_symlink():
            continue
        try:
            target = path.resolve()
        except (OSError, RuntimeError):
            raise ConvertError(f"{path} is a link that leads in a circle") from None
        if not any(place == target or place in target.parents for place in allowed):
            raise ConvertError(
                f"{path} is a link to {target}, outside the checkpoint; put the file itself there"
            )
