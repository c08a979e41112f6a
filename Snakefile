# All papers' workflows. Run one:  snakemake -j4 pipelines/aps/all
# On other data, at the paper's scale:  snakemake -j1 pipelines/aps/all --config dataset=cifar10 scale=paper
from stillpoint.pipelines import workflow as flow

configfile: f"{workflow.basedir}/config.yaml"

flow.read(config)  # a wrong key or value is told here, in one sentence
# every job runs the command line of the Python that runs snakemake, also where `stillpoint` is not on the PATH
shell.prefix("{flow.SHELL}")

include: "core/data/prepare.smk"

module aps:
    snakefile: "pipelines/aps/Snakefile"
    config: config
use rule * from aps as aps_*
module translations:
    snakefile: "pipelines/translations/Snakefile"
    config: config
use rule * from translations as translations_*
module blurpool:
    snakefile: "pipelines/blurpool/Snakefile"
    config: config
use rule * from blurpool as blurpool_*
module wavelet_twins:
    snakefile: "pipelines/wavelet_twins/Snakefile"
    config: config
use rule * from wavelet_twins as wavelet_twins_*
module sdnet:
    snakefile: "pipelines/sdnet/Snakefile"
    config: config
use rule * from sdnet as sdnet_*

for paper in ("aps", "translations", "blurpool", "wavelet_twins", "sdnet"):

    rule:
        name: f"pipelines/{paper}/all"
        input: getattr(rules, f"{paper}_all").input,
