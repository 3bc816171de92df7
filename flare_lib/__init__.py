"""flare_lib: 13 abdominal organs in CT, coarse to fine.

The folders are the chapters of the course, and each imports only from those before it:
`ct` a CT and what is done to it, `network` what learns, `data` where cases come from, `training` how it learns,
`inference` from CT to labels, `evaluation` how good, `display` what people look at.
On top of them are `editions` and `notebooks`, which handle the course, and `commands`, which `cli` puts together as
`flare`.
"""

__version__ = "0.1.0"
