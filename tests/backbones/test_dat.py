import pytest
import torch

from mmattn.backbones import DAT

SMALL = [dict(embed_dims=8, num_heads=2, blocks='LS', window_size=3),
         dict(embed_dims=12, num_heads=2, blocks='S', window_size=4),
         dict(embed_dims=16, num_heads=4, blocks='LD', window_size=3, offset_groups=2),
         dict(embed_dims=24, num_heads=6, blocks='D', offset_groups=3, offset_kernel_size=3)]


def small(**options):
    return DAT(**dict(arch=SMALL, pretrain_img_size=64) | options)


@pytest.mark.parametrize('size', [(1, 1), (1, 40), (31, 2), (33, 64), (97, 131)])
@pytest.mark.parametrize('batch', [1, 3])
def test_any_size_gives_maps_of_the_declared_shapes_and_gradients(size, batch):
    model = small()
    x = torch.randn(batch, 3, *size, requires_grad=True)
    outs = model(x)
    for i, (out, stage) in enumerate(zip(outs, SMALL)):
        assert out.shape == (batch, stage['embed_dims'], *(-(-side // (4 * 2 ** i)) for side in size))
        assert out.isfinite().all()
        assert out.is_contiguous()      # mmcv's RoIAlign reads other layouts wrongly, and says nothing
    sum(out.square().sum() for out in outs).backward()
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(('arch', 'published'), [('tiny', 28.32), ('small', 50), ('base', 88)])
def test_published_sizes(arch, published):
    with torch.device('meta'):
        model = DAT(arch, out_norm=False)
    classifier = 1001 * model.stages[-1].blocks[-1].norm1.weight.numel() + 1000
    millions = (sum(p.numel() for p in model.parameters()) + classifier) / 1e6
    assert millions == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize('out_indices', [(0,), (1, 3), (0, 1, 2)])
def test_out_indices_choose_maps_and_leave_no_parameter_without_gradient(out_indices):
    model = small(out_indices=out_indices)
    outs = model(torch.randn(2, 3, 50, 60))
    assert [out.shape[1] for out in outs] == [SMALL[i]['embed_dims'] for i in out_indices]
    sum(out.square().sum() for out in outs).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_checkpointing_changes_no_gradient():
    plain, saving = small(), small(with_cp=True)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 45, 70)
    for model in (plain, saving):
        sum(out.square().sum() for out in model(x)).backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_frozen_stages_neither_train_nor_drop():
    model = small(frozen_stages=2, drop_path_rate=0.5, drop_rate=0.5)
    model.train()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name.split('.')[0] for name in frozen} == {'stem', 'stages', 'downsamples', 'norms'}
    assert not any(name.startswith(('stages.2', 'stages.3', 'downsamples.1', 'downsamples.2', 'norms.2', 'norms.3'))
                   for name in frozen)
    assert not model.stages[1].training
    assert model.stages[2].training
    assert all(p.requires_grad for p in small().parameters())
    assert not any(p.requires_grad for p in small(frozen_stages=4).parameters())


def test_drop_path_rises_from_zero():
    rates = [block.drop_path.rate for stage in small(drop_path_rate=0.25).stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2, 0.25])


def test_batch_members_do_not_mix():
    model = small().eval()
    x = torch.randn(3, 3, 40, 52)
    for whole, alone in zip(model(x), model(x[1:2])):
        torch.testing.assert_close(whole[1:2], alone)


@pytest.mark.parametrize(('options', 'message'), [
    (dict(arch='huge'), "arch='huge' is unknown; choose one of tiny, small, base, or give a list of stages"),
    (dict(arch=[dict(embed_dims=100, num_heads=3, blocks='L')]), 'embed_dims=100 is not divisible by num_heads=3'),
    (dict(arch=[dict(embed_dims=9, num_heads=3, blocks='LQ')]), "block 'Q' in blocks='LQ' is unknown; use L"),
    (dict(out_indices=(4,)), r'out_indices=\(4,\) must be ascending stage numbers from 0 to 3'),
    (dict(out_indices=()), r'out_indices=\(\) must be'),
    (dict(out_indices=(2, 1)), r'out_indices=\(2, 1\) must be'),
    (dict(frozen_stages=5), 'frozen_stages=5 is outside -1 to 4'),
    (dict(drop_path_rate=1.5), 'drop path rate .* is outside'),
])
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)
