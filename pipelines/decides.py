"""``python -m stillpoint.pipelines.decides`` writes a file for each paper with the digests of what decides its results.

DVC's stages depend on these files instead of the code's folders, so that editing a comment repeats no stage.
"""

from pathlib import Path

from stillpoint import pipelines
from stillpoint.core.base.documents import read_yaml
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import digest, digest_of, write_json
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines import networks, workflow
from stillpoint.pipelines.papers import PAPERS


def decides(paper: str, recipe: str, kept: Path) -> dict[str, str]:
    """Digests of the code of each stage of a paper under a recipe, and of the cards of its kept runs."""
    try:
        data = pipelines.recipe_config(paper, recipe).data.name
    except UserError:
        return {}  # the stages report that the paper lacks this recipe
    cards = {str(run.folder.relative_to(kept)): digest(run.card) for run in Run.all_kept(kept, paper, recipe)}
    return {**{stage: workflow.stage_code(stage, paper, data) for stage in workflow.ENTRIES}, "kept": digest_of(cards)}


def main() -> None:
    settings = workflow.read(read_yaml(Path("config.yaml")) or {})
    for paper in PAPERS:
        write_json(Path("results/code") / f"{paper}.json", decides(paper, settings.recipe, networks.kept_root()))


if __name__ == "__main__":
    main()
