# The workflow of one paper, which the Snakefile names in `config`. Settings are written for one paper; another that lacks
# such a recipe or key has no rules, and the reason is reported only to a user who asks for it.
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
