"""Point defects in a 216-atom silicon cell, relaxed and labelled with an interatomic potential -> a parquet data set."""

import argparse
import sys

import numpy as np
from tqdm import tqdm

from modeling_adapt.command_line import require_empty_folder, run_command
from modeling_adapt.data.generation import generate_structures
from modeling_adapt.data.labelling import erhart_albe, load_calculator
from modeling_adapt.data.splitting import assign_splits
