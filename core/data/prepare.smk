# Decodes a data set once. The marker says what was found (title, images, digest of each part) and is written last,
# so it is the input of whatever trains or evaluates. Needs config["data_root"]; paths are relative to the repository.
rule prepare:
    output:
        f"{config['data_root']}/prepared/{{dataset}}.json",
    log:
        "logs/prepare/{dataset}.log",
    benchmark:
        "logs/prepare/{dataset}.tsv"
    threads: 1
    params:
        root=config["data_root"],
    shell:
        "stillpoint prepare {wildcards.dataset} --root {params.root:q} > {log} 2>&1"
