# First base of every config: imports mmattn while the config is read, before the libraries' own bases
# (`mmdet::…`, `mmseg::…`) are looked up, and again wherever the finished config is loaded.
__import__('mmattn.registry')
custom_imports = dict(imports=['mmattn.registry'], allow_failed_imports=False)
