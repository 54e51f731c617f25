"""``python -m paribus.lmms ARGS``: lmms-eval, also beside a torchvision that is linked to another torch."""

import importlib.util
import sys

from paribus.peers import mend_torchvision


def main() -> None:
    """Run lmms-eval's command with the arguments of this one."""
    if importlib.util.find_spec("lmms_eval") is None:
        sys.exit("paribus: lmms-eval is not installed here: use the environment of docs/lmms_eval.md.")
    mend_torchvision()  # before lmms-eval imports transformers
    from lmms_eval.cli.dispatch import main as lmms_eval

    lmms_eval()


if __name__ == "__main__":
    main()
