"""Items ranked by what a run learnt of sentences: a beam search for each user, users dealt to ranks.

Shapes: I instances of this rank, b beams, l codes generated so far, S codes at a level, K items found, D width.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from tqdm import tqdm

from ppr_dist import evaluate as evaluate_command
from ppr_dist import files
from ppr_dist.arrays import Int64Array
from ppr_dist.data.manifest import Manifest, load_manifest
from ppr_dist.data.raw_ids import UserIds, item_ids
from ppr_dist.data.remote import here
from ppr_dist.data.stream.instances import Instances, excluded, history_batch
from ppr_dist.data.stream.user_stream import users_in_order
from ppr_dist.data.stream.users import Users
from ppr_dist.errors import UserError
from ppr_dist.guards import hang
from ppr_dist.metrics import METRICS
from ppr_dist.metrics.base import AtCutoff, Ranked
from ppr_dist.p5.beam import Trie, beam_search
from ppr_dist.p5.templates import FAMILIES, render
from ppr_dist.p5.token_log import Description, read_description
from ppr_dist.parallel.collectives import all_sum
from ppr_dist.parallel.distributed import distributed_context, on_main
from ppr_dist.parquet_writer import ID_TYPES, PartWriter, data_set
from ppr_dist.passport import passport
from ppr_dist.scoring import ModelScorer
from ppr_dist.tasks import TASKS
from ppr_dist.tasks.ranking import RankingTask
from ppr_dist.tracking.evaluations import log_evaluations
from ppr_dist.trained import Trained, load_trained

if TYPE_CHECKING:
    from ppr_dist.p5.evaluate import Arguments


class Generator:
    """Finds the most probable items after sentences. Its methods are collectives."""

    def __init__(self, trained: Trained, description: Description, codes: Int64Array) -> None:
        """``codes``: of items, [N, L]. Raises :class:`UserError` where the run was not trained to answer in codes."""
        levels, targets = codes.shape[1], trained.config.train.last_clicks
        if targets != levels:
            raise UserError(
                f"the run has train.last_clicks {targets}, but items are {levels} tokens: see pretrain.yaml"
            )
        self.scorer: ModelScorer = trained.scorer
        self.max_length, self.temperature = trained.config.model.max_length, trained.config.loss.temperature
        self.description, self.codes = description, codes
        self.vocabulary = description.vocabulary
        self.template = next(texts[0] for family, texts in FAMILIES.items() if family in description.families)
        self.trie = Trie(codes, self.scorer.device)
        # Tokens are numbered by the folder of sentences as any items are.
        self.index = np.argsort(item_ids(trained.data).to_numpy())
        rows = torch.from_numpy(self.index[self.vocabulary.first_code[0] :]).to(self.scorer.device)
        self.code_vectors = self.scorer.item_vectors(rows).split(list(self.vocabulary.sizes))

    def items(self, instances: Instances, beams: int, left_out: tuple[Int64Array, Int64Array]) -> tuple[Tensor, Tensor]:
        """Items int64 [I, K] and log probabilities [I, K], best first; −1 where there are no more.

        ``left_out``: pairs of an instance and an item that is not to be found.
        """

        def log_p(begun: Tensor) -> Tensor:
            """Of the codes of the next level, [I, b, S]; what is no code of that level has no share."""
            _, at_once, level = begun.shape
            states = self._states(instances, begun.cpu().numpy())
            logits = states @ self.code_vectors[level].T
            return torch.log_softmax(logits / self.temperature, dim=1).unflatten(0, (len(instances.user_rows), at_once))

        query, item = (torch.from_numpy(each).to(self.scorer.device) for each in left_out)
        return beam_search(self.trie, log_p, len(instances.user_rows), beams, (query, item))

    def _states(self, instances: Instances, begun: Int64Array) -> Tensor:
        """User vectors after the sentence of each instance and the codes begun, [I, b, l] → [I·b, D]. A collective."""
        rows, contexts = (np.repeat(x, begun.shape[1]) for x in (instances.user_rows, instances.context_lengths))
        tokens, lengths = render(
            self.template,
            Instances(instances.users, rows, contexts),
            self.codes,
            self.vocabulary,
            self.description.history,
            begun.reshape(len(rows), begun.shape[2]),
        )
        everyone = np.arange(len(rows))
        offsets, nothing = np.concatenate([[0], np.cumsum(lengths)]), np.zeros((0, len(rows)), np.int64)
        sentences = Users(index=everyone, items=self.index[tokens], offsets=offsets, attributes=nothing)
        return self.scorer.user_vectors(history_batch(Instances(sentences, everyone, lengths), self.max_length))


def evaluate(arguments: Arguments) -> list[dict[str, Any]]:
    """Rank held-out clicks, write recommendations where asked; return the lines that were printed. A collective."""
    rows = []
    with distributed_context() as context, torch.no_grad(), contextlib.ExitStack() as stack:
        on_main(lambda: files.check_writable(arguments.run_dir))
        tokens = arguments.data / "tokens" if arguments.data else None
        trained = load_trained(arguments.run_dir, tokens, context, arguments.cluster)
        description, codes = on_main(lambda: read_description(trained.data.parent))
        data = (arguments.of or here(description.data)).absolute()
        manifest = on_main(lambda: load_manifest(data))
        if trained.manifest.fingerprint != trained.info.fingerprint:
            raise UserError(f"{trained.data} was written again since {arguments.run_dir} was trained: train again")
        if manifest.fingerprint != description.fingerprint:
            raise UserError(f"{trained.data.parent}: its sentences are of other data than {data}; write them again")
        generator = Generator(trained, description, codes)
        best = None
        if arguments.out:
            folder = stack.enter_context(data_set(arguments.out, context))
            parts = stack.enter_context(PartWriter(folder, context, _schema(manifest)))
            best = Best(parts, data, arguments.beams, arguments.k)
        for task in arguments.task:
            question = TASKS[task]
            assert isinstance(question, RankingTask)
            at_once = {"rank": context.rank, "world_size": context.world_size, "at_once": arguments.batch}
            steps, users = users_in_order(data, manifest, question.split, **at_once)
            hidden = None if arguments.progress and context.main else True
            found = Found(arguments.beams)
            for part in tqdm(users, total=steps, desc=f"{task} p5", disable=hidden):
                hang.alive()
                found.add(generator, question.instances(part), manifest.items)
                if best:
                    best.add(generator, part)
            asked = evaluate_command.Arguments(run_dir=arguments.run_dir, task=[task], protocol="full")
            row = {"task": task, "protocol": "full", **found.finish(context.device), "target_time": False}
            measured = passport(manifest, trained.info, asked, question, row)
            row |= {"method": "p5", "ids": description.ids, "beams": arguments.beams}
            row |= {"run": str(arguments.run_dir.resolve()), "step": trained.step}
            row |= {"data": manifest.fingerprint, "passport": dataclasses.asdict(measured)}
            rows.append(row)
            if context.main:
                files.append_line(arguments.run_dir / "evaluations.jsonl", row)
                print(json.dumps(row), flush=True)
        if context.main:
            log_evaluations(arguments.run_dir, trained.config, trained.info.stage, rows, None)
    return rows


class Found:
    """How often targets are among the items found, and where."""

    def __init__(self, beams: int) -> None:
        self.beams = beams
        self.metrics = {
            name: metric for name, metric in METRICS.items() if isinstance(metric, AtCutoff) and metric.cutoff <= beams
        }
        self.sums = torch.zeros(len(self.metrics) + 2, dtype=torch.float64)

    def add(self, generator: Generator, instances: Instances, items: int) -> None:
        """Rank the targets of instances, of ``items`` in the catalogue. A collective."""
        targets = torch.from_numpy(instances.targets)
        rows, seen = excluded(instances, with_target=False)
        again = seen == instances.targets[rows]  # a target that was clicked before is ranked all the same
        found, scores = generator.items(instances, self.beams, (rows[~again], seen[~again]))
        found, scores = found.cpu(), scores.cpu()
        hit = (found == targets[:, None]).to(scores.dtype)
        # Ties count against the model; what is not found is behind all that are.
        of_target = torch.where(hit > 0, scores, -torch.inf).amax(dim=1, keepdim=True)
        rank = torch.where(hit.any(dim=1), (scores >= of_target).sum(dim=1), self.beams + 1)
        candidates = items - torch.from_numpy(np.bincount(rows[~again], minlength=len(targets)))
        ranked = Ranked(rank=rank, candidates=candidates, items=items)
        sums = [metric.sums(ranked) for metric in self.metrics.values()]
        counts = torch.tensor([len(targets), int(again.sum())], dtype=torch.float64)
        self.sums += torch.cat([counts, torch.stack(sums)])

    def finish(self, device: torch.device) -> dict[str, Any]:
        """Means over the instances of all ranks. A collective."""
        instances, again, *sums = all_sum(self.sums.to(device)).tolist()
        if not instances:
            raise UserError("no instance to rank")
        means = {name: value / instances for name, value in zip(self.metrics, sums, strict=True)}
        return {"instances": int(instances), **means, "seen_targets": int(again)}


class Best:
    """Writes the best items after all clicks of each user, as ``recommend`` does."""

    def __init__(self, parts: PartWriter, data: Path, beams: int, k: int) -> None:
        self.parts, self.users, self.items = parts, UserIds(data), item_ids(data)
        self.beams, self.k = beams, k

    def add(self, generator: Generator, users: Users) -> None:
        """A collective."""
        instances = Instances(users, np.arange(len(users)), users.lengths)
        found = generator.items(instances, self.beams, excluded(instances, with_target=False))
        items, scores = (each[:, : self.k].cpu().numpy() for each in found)
        row, column = np.nonzero(items >= 0)
        self.parts.write(
            {
                "user_id": self.users.take(users.index[row]),
                "item_id": self.items.take(pa.array(items[row, column])),
                "rank": column + 1,
                "score": scores[row, column],
            }
        )


def _schema(manifest: Manifest) -> pa.Schema:
    user, item = (ID_TYPES[kind] for kind in (manifest.user_id_type, manifest.item_id_type))
    return pa.schema([("user_id", user), ("item_id", item), ("rank", pa.int64()), ("score", pa.float32())])
