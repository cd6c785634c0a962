# Agents at points that the queries choose, which attend to 4, 8, 16 and all of 7 x 7 regions in the four stages, in
# turn with windows.
_base_ = '_base_/mask-rcnn_swin-t-layout_1x_coco.py'
agent = dict(type='DeformableBiLevelRoutingAttention', num_windows=7)
attention = [
    [dict(type='LocalAttention'), dict(agent, offset_groups=1, topk=4, stride=8, offset_kernel_size=9, table_size=56)],
    [dict(type='LocalAttention'), dict(agent, offset_groups=3, topk=8, stride=4, offset_kernel_size=7, table_size=28)],
    [dict(type='LocalAttention'), dict(agent, offset_groups=3, topk=16, stride=2, offset_kernel_size=5, table_size=14)],
    [dict(type='LocalAttention'), dict(agent, offset_groups=6, topk=49, stride=1, offset_kernel_size=3, table_size=7)],
]
model = dict(backbone=dict(attention=attention))
