# The workflow of one paper, which the Snakefile names in `config`. A workflow's settings are for one paper, so one that has
# no such recipe or key has no rules; only who asks for it is told why.
from stillpoint.pipelines import workflow as flow

PAPER = config["paper"]
settings = {key: value for key, value in config.items() if key != "paper"}
refusal = flow.refusal(PAPER, settings)

if refusal is None:

    include: "recipe.smk"

else:

    rule all:
        input:
            lambda wildcards: flow.refuse(refusal),
        default_target: True
