# Imports mmattn while a config is read, so that `mmseg::…` is found. For a config whose library's base has imports of
# its own, which would stand beside those of mmattn.py.
__import__('mmattn.registry')
