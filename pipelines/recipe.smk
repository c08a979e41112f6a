# The rules of one paper under one recipe. Data come from core/data/prepare.smk.
# `decides` is a digest of the code, settings and raw data behind a result: if it has changed, the command is called
# again. The command, which holds the run's lock, decides whether to replace anything; so `update` keeps snakemake from
# removing results beforehand. A marker that is only newer repeats nothing: its content is compared.
# (With `ancient`, snakemake would ignore changes of files that its own jobs make; so only kept runs, which no job makes,
# are read with it, if they are as committed in git.)
from stillpoint.pipelines import workflow as flow

plan = flow.plan(PAPER, settings)
run = f"{plan.folder}/{{model}}/seed{{seed}}"
settled = ancient if plan.as_committed else list


wildcard_constraints:
    model=r"[^/]+",
    seed=r"\d+",


rule train:
    input:
        lambda w: plan.begins_from(w.model, int(w.seed), alone=workflow.is_main_process and not workflow.dryrun),
    output:
        config=update(f"{run}/config.yaml"),
        history=update(f"{run}/history.csv"),
        weights=update(f"{run}/weights.safetensors"),
    params:
        decides=lambda w: plan.decides("train", w.model, int(w.seed)),
        name=lambda w: f"{PAPER}/{w.model}",
        options=plan.options("--recipe", "--results", "--data", "--device", "--workers"),
        settings=plan.tail,
    log:
        f"{plan.folder}/logs/{{model}}_seed{{seed}}_train.txt",
    benchmark:
        f"{plan.folder}/logs/{{model}}_seed{{seed}}_train.tsv"
    threads: plan.settings.threads
    resources:
        gpu=plan.gpus,
    shell:
        "logged {log:q} train {params.name:q} {params.options} --seed {wildcards.seed:q} --threads {threads}"
        " --workflow {params.settings}"


rule evaluate:
    input:
        str(plan.marker),
        weights=rules.train.output.weights,
        config=rules.train.output.config,
    output:
        metrics=update(f"{run}/metrics.json"),
        maps=update(f"{run}/maps.safetensors"),
    params:
        decides=lambda w: plan.decides("evaluate", w.model, int(w.seed)),
        folder=lambda w, output: output.metrics.removesuffix("/metrics.json"),
        options=plan.options("--recipe", "--data", "--device", "--workers"),
        settings=plan.tail,
    log:
        f"{plan.folder}/logs/{{model}}_seed{{seed}}_evaluate.txt",
    benchmark:
        f"{plan.folder}/logs/{{model}}_seed{{seed}}_evaluate.tsv"
    threads: plan.settings.threads
    resources:
        gpu=plan.gpus,
    shell:
        "logged {log:q} evaluate {params.folder:q} {params.options} --threads {threads} --workflow {params.settings}"


rule table:
    input:
        settled(plan.metrics()),
        settled(plan.histories()),
        settled(plan.read_by_pages()),
    output:
        report(
            update(plan.tables()["md"]),
            caption=plan.caption("table"),
            category=PAPER,
            subcategory=plan.recipe,
            labels={"result": "table"},
        ),
        [update(path) for suffix, path in plan.tables().items() if suffix != "md"],
        [
            report(
                update(path),
                caption=plan.caption(name.partition(".")[0]),
                category=PAPER,
                subcategory=plan.recipe,
                labels={"result": name.partition(".")[0]},
            )
            if plan.reported(name)
            else update(path)
            for name, path in plan.pages().items()
        ],
    params:
        decides=lambda w: plan.decides("table"),
        paper=PAPER,
        options=plan.gathering,
        settings=plan.tail,
    log:
        f"{plan.folder}/logs/table.txt",
    benchmark:
        f"{plan.folder}/logs/table.tsv"
    threads: 1
    shell:
        "logged {log:q} table {params.paper:q} {params.options} {params.settings}"


rule figures:
    input:
        settled(plan.metrics()),
        settled(plan.maps()),
        settled(plan.histories()),
    output:
        [
            report(
                update(path),
                caption=plan.caption(name),
                category=PAPER,
                subcategory=plan.recipe,
                labels={"result": name.replace("_", " ")},
            )
            for name, path in plan.figures().items()
        ],
    params:
        decides=lambda w: plan.decides("figures"),
        paper=PAPER,
        options=plan.gathering,
        settings=plan.tail,
    log:
        f"{plan.folder}/logs/figures.txt",
    benchmark:
        f"{plan.folder}/logs/figures.tsv"
    threads: 1
    shell:
        "logged {log:q} figures {params.paper:q} {params.options} {params.settings}"


rule all:
    input:
        rules.table.output,
        rules.figures.output,
    default_target: True
