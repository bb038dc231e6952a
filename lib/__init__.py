"""The library of the scripts, in wings, each on those below it in the order of pyproject.toml."""

import logging

# PEFT imports bitsandbytes where it is installed, which looks for a faster kernel on some processors and warns that
# there is none.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
