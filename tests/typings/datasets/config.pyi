from pathlib import Path

HF_DATASETS_CACHE: Path
