"""Files of sequences, read strictly, and files of features.

Every error names the lines of the file, and no error shows a sequence.
"""

from skesm.io._fasta import Fasta, FastaRecord, iter_fasta, read_fasta
from skesm.io._tables import Table, count_problems, read_table
from skesm.io.jobs.reports import FilePlan, FileReport
from skesm.io.jobs.runs import plan_file, transform_file, transform_folder
from skesm.io.jobs.shards import Shard

__all__ = [
    "Fasta",
    "FastaRecord",
    "FilePlan",
    "FileReport",
    "Shard",
    "Table",
    "count_problems",
    "iter_fasta",
    "plan_file",
    "read_fasta",
    "read_table",
    "transform_file",
    "transform_folder",
]
