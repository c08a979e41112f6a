# Decodes a data set once. The marker says what was found (title, images, digest of each part) and is written last,
# so it is what a rule that trains or evaluates takes as its input. config["data"] is the data root; without it, the
# environment's STILLPOINT_DATA, or data.
from stillpoint.core.config.catalogue import data_root


DATA_ROOT = data_root(config.get("data") or None)


rule prepare:
    output:
        f"{DATA_ROOT}/prepared/{{dataset}}.json",
    log:
        "logs/prepare/{dataset}.log",
    benchmark:
        "logs/prepare/{dataset}.tsv"
    threads: 1
    params:
        root=DATA_ROOT,
    shell:
        "stillpoint prepare {wildcards.dataset} --root {params.root:q} > {log} 2>&1"
