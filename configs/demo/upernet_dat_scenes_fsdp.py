# The same with parameters, gradients and the state of the optimizer shared out over all processes (FSDP).
_base_ = 'upernet_dat_scenes.py'
runner_type = 'FlexibleRunner'
strategy = dict(
    type='FSDPStrategy',
    model_wrapper=dict(
        type='MMFullyShardedDataParallel', use_orig_params=True, auto_wrap_policy='mmattn.wrap_stages'),
    state_dict_cfg=dict(        # one file, as without FSDP
        state_dict_type='FULL_STATE_DICT',
        state_dict_config=dict(type='FullStateDictConfig', rank0_only=True, offload_to_cpu=True),
        optim_state_dict_config=dict(type='FullOptimStateDictConfig', rank0_only=True, offload_to_cpu=True)))
