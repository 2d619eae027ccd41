"""Residual networks: topology as data, the ANN, and the integer spiking network that is made of it.

`topology.topology` describes a network, `resnet.ResNet` and `resnet.ann_forward` are the ANN,
`batchnorm.fold_batchnorm` folds its BatchNorm, `spiking.SpikingResNet` runs the spiking network.

Imports: kernels and the base files.
"""
