"""The measures, in the order in which they run and are reported. A new one is a file here, a section in
``eval/sections.py`` with its field in ``eval/suite.py``, and a line below."""

from eval.measures.agreement import AGREEMENT
from eval.measures.base import Measure
from eval.measures.consistency import CONSISTENCY
from eval.measures.footprint import FOOTPRINT
from eval.measures.needle import NEEDLE
from eval.measures.perplexity import PERPLEXITY
from eval.measures.reach import REACH
from eval.measures.speed import SPEED
from eval.measures.tasks import TASKS

MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (PERPLEXITY, AGREEMENT, NEEDLE, TASKS, REACH, CONSISTENCY, FOOTPRINT, SPEED)
}
