"""The command line.

Exit codes: 0 done, 1 failed, 2 bad input; 130, 143 and 129 after Ctrl-C, SIGTERM and SIGHUP. All
but 0 come with one line on stderr.
"""

from sparsetrain.cli.entry import main as main
