# All papers' workflows. Run one:       snakemake -j4 pipelines/aps/all
# By another recipe:                    snakemake -j1 pipelines/aps/all --config recipe=cifar10
from stillpoint.pipelines import workflow as flow

configfile: f"{workflow.basedir}/config.yaml"

flow.read(config)  # a wrong key or value ends here with one sentence
# every job runs the command line with the Python that runs snakemake, even if `stillpoint` is not on the PATH
shell.prefix("{flow.SHELL}")

include: "core/data/prepare.smk"

for paper in flow.PAPERS:
    paper_ = f"{paper}_"  # what Snakemake puts before the names of a module's rules

    module:
        name: paper
        snakefile: "pipelines/rules.smk"
        config: {**config, "paper": paper}

    use rule * from paper as paper_*

    rule:
        name: f"pipelines/{paper}/all"
        input: getattr(rules, f"{paper}_all").input,
