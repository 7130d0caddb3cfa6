"""Files of sequences: FASTA, delimited text and spreadsheets, read strictly.

Every error names the lines of the file, and no error shows a sequence.
"""

from skesm.io._fasta import Fasta, FastaRecord, iter_fasta, read_fasta
from skesm.io._tables import Table, count_problems, read_table

__all__ = ["Fasta", "FastaRecord", "Table", "count_problems", "iter_fasta", "read_fasta", "read_table"]
