"""The paper's experiments (Lin et al. 2017), to be run on any data set.

`rows` has the tables, `run` trains them, `report` and `figures` show what came of it.
"""

from .report import write_report
from .rows import EXPERIMENTS, Experiment, Row
from .run import run_experiment

__all__ = ["EXPERIMENTS", "Experiment", "Row", "run_experiment", "write_report"]
