# The rules of one paper under one recipe. Data come from core/data/prepare.smk.
# `decides` is a digest of the code and settings behind a result, so that what no longer follows from them is made again.
from stillpoint.pipelines import workflow as flow

plan = flow.plan(PAPER, settings)
run = f"{plan.folder}/{{model}}/seed{{seed}}"


wildcard_constraints:
    model=r"[^/]+",
    seed=r"\d+",


rule train:
    input:
        lambda w: plan.begins_from(w.model, int(w.seed)),
    output:
        config=f"{run}/config.yaml",
        history=f"{run}/history.csv",
        weights=f"{run}/weights.safetensors",
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
        "stillpoint train {params.name} {params.options} --seed {wildcards.seed} --threads {threads}"
        " --code {params.decides} {params.settings} > {log} 2>&1"


rule evaluate:
    input:
        str(plan.marker),
        weights=rules.train.output.weights,
        config=rules.train.output.config,
    output:
        metrics=f"{run}/metrics.json",
        maps=f"{run}/maps.safetensors",
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
        "stillpoint evaluate {params.folder} {params.options} --threads {threads} {params.settings} > {log} 2>&1"


rule table:
    input:
        plan.metrics(),
        [str(r.history) for r in plan.runs],
        plan.read_by_pages(),
    output:
        report(
            plan.tables()["md"],
            caption=plan.caption("table"),
            category=PAPER,
            subcategory=plan.recipe,
            labels={"result": "table"},
        ),
        [path for suffix, path in plan.tables().items() if suffix != "md"],
        list(plan.pages().values()),
    params:
        decides=lambda w: plan.decides("table"),
        paper=PAPER,
        options=plan.options("--recipe", "--results", "--seeds"),
        settings=plan.tail,
    log:
        f"{plan.folder}/logs/table.txt",
    benchmark:
        f"{plan.folder}/logs/table.tsv"
    threads: 1
    shell:
        "stillpoint table {params.paper} {params.options} {params.settings} > {log} 2>&1"


rule figures:
    input:
        plan.metrics(),
        [str(r.maps) for r in plan.runs],
        [str(r.history) for r in plan.runs],
    output:
        [
            report(
                path,
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
        options=plan.options("--recipe", "--results", "--seeds"),
        settings=plan.tail,
    log:
        f"{plan.folder}/logs/figures.txt",
    benchmark:
        f"{plan.folder}/logs/figures.tsv"
    threads: 1
    shell:
        "stillpoint figures {params.paper} {params.options} {params.settings} > {log} 2>&1"


rule all:
    input:
        rules.table.output,
        rules.figures.output,
    default_target: True
