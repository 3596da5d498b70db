"""`r1 plan`: what a training run needs and costs on a cluster, before anyone books one.

hardware (data sheets, measured rates) and efficiency (the one set of assumptions) feed params, tensors -> memory,
traffic -> timing -> plan. search tries layouts, published holds what others measured, report prints.
No torch.
"""
