# What every paper's Snakefile includes after it has said which PAPER it is. A workflow's settings are for one paper, so
# one that has no such recipe or key has no rules; only who asks for it is told why.
from stillpoint.pipelines import workflow as flow

refusal = flow.refusal(PAPER, config)

if refusal is None:

    include: "recipe.smk"

else:

    rule all:
        input:
            lambda wildcards: flow.refuse(refusal),
        default_target: True
