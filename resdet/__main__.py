"""`python -m resdet COMMAND`, also under torchrun: `torchrun --nproc-per-node 8 -m resdet …`."""

from resdet.cli import entry

if __name__ == "__main__":
    entry()
