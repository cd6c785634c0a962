"""What MMEngine's hub asks of a package under this name."""


def register_all_modules(init_default_scope: bool = False) -> None:
    """Make the classes of the package known to MMEngine's registries.

    Args:
        init_default_scope: True makes 'mmattn' the scope of types without one. Configs do without: they are of the
            scope mmdet or mmseg, and name our classes as 'mmattn.DAT'.
    """
    import mmattn.registry  # noqa: F401  its registries load the classes when they are first asked for
    if init_default_scope:
        from mmengine.registry import init_default_scope as set_default_scope
        set_default_scope('mmattn')
