"""Import this before timm, open_clip or lightly: they import torchvision, which may have to be mended."""

from paribus.peers import mend_torchvision

mend_torchvision()
