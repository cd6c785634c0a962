# 30 epochs of fine-tuning at 384 pixels, without warm-up, 192 images a step.
_base_ = 'adamw_300e_in1k.py'
train_cfg = dict(max_epochs=30)
optim_wrapper = dict(optimizer=dict(weight_decay=1e-8))
auto_scale_lr = dict(base_batch_size=192)
