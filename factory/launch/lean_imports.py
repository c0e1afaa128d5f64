"""The fork server imports this before libraries.

Where scikit-learn is installed transformers imports it for assisted generation, which nothing here
does: a quarter of the processor time of all imports.
"""

import transformers.utils

transformers.utils.is_sklearn_available = lambda: False
