from mmattn.measuring.tables import markdown


def test_a_table_has_a_head_a_line_below_it_and_rows():
    assert markdown(['network', 'mIoU'], [('dat', 34.5), ('swin', None)]).splitlines() == [
        '| network | mIoU |', '|---|---|', '| dat | 34.5 |', '| swin | None |']


def test_a_table_without_rows_has_its_head():
    assert markdown(['network'], iter(())).splitlines() == ['| network |', '|---|']
