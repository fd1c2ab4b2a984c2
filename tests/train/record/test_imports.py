"""Reading records must stay quick."""

import subprocess
import sys


def test_status_and_records_do_not_import_jax():
    code = "import sys, stepladder.train.record.status; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
