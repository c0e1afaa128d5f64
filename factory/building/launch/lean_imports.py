"""The fork server imports this before libraries.

Where scikit-learn is installed transformers imports it for assisted generation, which nothing here
does: a quarter of the processor time of all imports. As transformers 5.17 asks; where another
release asks elsewhere, only the time is lost.
"""

import transformers.utils

transformers.utils.__dict__["is_sklearn_available"] = lambda: False
