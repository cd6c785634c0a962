"""The authors' weights under our names."""
from mmattn.checkpoint import biformer, crossformer, dat, debiformer

# Of each family, what gives our name and value of a parameter of the authors', see `mmattn.checkpoint.convert.convert`.
TRANSLATIONS = dict(dat=dat.translate, crossformer=crossformer.translate, biformer=biformer.translate,
                    debiformer=debiformer.translate)
