"""What a user is told about a set of decoded images, beyond the list of skipped files."""

from collections.abc import Sequence

from pretrain.data.parallel_decoding import DecodedBlock
from pretrain.data.skipped_files import Skipped

# Fourteen bits in files of sixteen fill a quarter of their range.
LITTLE_OF_RANGE = 64  # of 255


def remarks_on(blocks: Sequence[DecodedBlock], paths: Sequence[str], skipped: Sequence[Skipped]) -> list[str]:
    """Return the lines for the user; `paths` are those that the positions in the blocks count."""
    deep = [k for block in blocks for k in block.deep]
    peak = max((block.deep_peak for block in blocks), default=0)
    vanished = [k for block in blocks for k in block.vanished]
    passing = [skip for skip in skipped if skip.passing]
    lines = []
    if deep and peak <= LITTLE_OF_RANGE:
        lines.append(
            f"the {len(deep):,} images of 16 bits, such as {paths[deep[0]]}, use at most {max(peak, 1) / 255:.1%} of "
            "their range, so they are nearly black: scale their values up to 65,535, or save them with 8 bits"
        )
    if vanished:
        lines.append(
            f"{len(vanished):,} transparent images, such as {paths[vanished[0]]}, are blank on white: "
            "put them on a darker color first"
        )
    if passing:
        lines.append(
            f"{len(passing):,} files or folders could not be read just now, such as {passing[0].path} "
            f"({passing[0].reason}): they are left out, and the next run tries them again"
        )
    return lines
