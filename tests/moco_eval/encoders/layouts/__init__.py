"""Every layout that the tests write, one module a family of authors."""

from layouts.clip import LAYOUTS as CLIP
from layouts.clustering import LAYOUTS as CLUSTERING
from layouts.codebases import LAYOUTS as CODEBASES
from layouts.detection import LAYOUTS as DETECTION
from layouts.distillation import LAYOUTS as DISTILLATION
from layouts.huggingface import LAYOUTS as HUGGINGFACE
from layouts.layout import Layout
from layouts.libraries import LAYOUTS as LIBRARIES
from layouts.lightly import LAYOUTS as LIGHTLY
from layouts.lightning import LAYOUTS as LIGHTNING
from layouts.masked import LAYOUTS as MASKED
from layouts.moco import LAYOUTS as MOCO
from layouts.openmmlab import LAYOUTS as OPENMMLAB
from layouts.siamese import LAYOUTS as SIAMESE
from layouts.simclr import LAYOUTS as SIMCLR
from layouts.supervised import LAYOUTS as SUPERVISED
from layouts.vissl import LAYOUTS as VISSL
from layouts.wrappers import LAYOUTS as WRAPPERS

LAYOUTS: tuple[Layout, ...] = (
    *MOCO,
    *LIBRARIES,
    *SIMCLR,
    *CLUSTERING,
    *SIAMESE,
    *CODEBASES,
    *DETECTION,
    *DISTILLATION,
    *MASKED,
    *HUGGINGFACE,
    *CLIP,
    *SUPERVISED,
    *VISSL,
    *LIGHTLY,
    *LIGHTNING,
    *OPENMMLAB,
    *WRAPPERS,
)
