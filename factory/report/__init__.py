"""The report of a build: sealed artifacts in, one self-contained page out.

`build.build` reads artifacts into a `records.Report` (a pure function of what is on disk);
`render.write` writes it as HTML, Markdown and JSON. Nothing here computes a new result: every
number is in an artifact, or is a paired statistic of per-problem means that are.
"""
