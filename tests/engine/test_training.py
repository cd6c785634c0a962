"""What a training is set up with."""
import pytest
from mmengine.config import Config

from mmattn.engine.training import check_optimizers, choose_precision, describe_schedule
from mmattn.errors import UsageError

COSINE = dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=12)
WARM_UP = dict(type='LinearLR', by_epoch=False, begin=0, end=500)


@pytest.mark.parametrize(('train_cfg', 'schedulers', 'line'), [
    (dict(max_epochs=12), [WARM_UP, COSINE], None),
    (dict(max_epochs=11), [WARM_UP, COSINE], None),         # one more, as recipes have it
    (dict(max_epochs=24), [WARM_UP, COSINE],
     'the schedule of the learning rate ends at epoch 12, the training at 24, with the rate as it is then; adapt '
     'param_scheduler'),
    (dict(max_epochs=6), [WARM_UP, COSINE],
     'the schedule of the learning rate ends at epoch 12, the training at 6; adapt param_scheduler'),
    (dict(max_iters=80000), dict(type='PolyLR', by_epoch=False, begin=0, end=40000),
     'the schedule of the learning rate ends at iteration 40000, the training at 80000, with the rate as it is then; '
     'adapt param_scheduler'),
    (dict(max_iters=80000), [WARM_UP], None),
    (dict(max_iters=80000), None, None),
    (dict(max_epochs=12), [dict(type='MultiStepLR', by_epoch=True, milestones=[8, 11])], None),
    (None, [COSINE], None),
])
def test_a_schedule_beside_the_training(train_cfg, schedulers, line):
    assert describe_schedule(Config(dict(train_cfg=train_cfg, param_scheduler=schedulers))) == line


def test_mixed_precision_of_several_optimizers_is_the_configs_to_say():
    cfg = Config(dict(optim_wrapper=dict(constructor='Mine', generator=dict(optimizer=dict(type='SGD', lr=1)))))
    assert choose_precision(cfg, None) is None
    with pytest.raises(UsageError, match='--amp bf16: the config has several optimizers'):
        choose_precision(cfg, 'bf16')


@pytest.mark.parametrize('wrapper', [
    dict(optimizer=dict(type='AdamX')),
    dict(constructor='Mine', backbone=dict(optimizer=dict(type='SGD')), head=dict(optimizer=dict(type='AdamX')))])
def test_an_unknown_optimizer_is_named(wrapper):
    with pytest.raises(UsageError, match=r"optimizer.type='AdamX' is not registered; Adam[A-Za-z]* is"):
        check_optimizers(Config(dict(optim_wrapper=wrapper)))
    check_optimizers(Config(dict(optim_wrapper=dict(optimizer=dict(type='AdamW')))))
