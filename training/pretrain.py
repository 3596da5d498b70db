"""Pre-training: documents -> next-token and MTP loss -> a base model (V3 §4)."""

from collections.abc import Sequence
from pathlib import Path

from infra.errors import ConfigError
from infra.tracking import Tracker
from modeling.build import uses_te
from modeling.config import ModelConfig
from modeling.mtp import mtp_acceptance
from modeling.tokenizer import Tokenizer
from training import checkpoint, parallel
from training.config import LoopConfig, ParallelConfig, PretrainConfig, Rows
from training.data.corpus import CorpusConfig, document
from training.data.indexed import IndexedStream, open_streams
from training.data.packing import by_length_batches, joined_batches, packed_batches
from training.data.stream import DocumentStream
from training.loop import run_loop
from training.losses import next_token_loss
from training.schedules import Schedule, value_at
from training.state import TrainState, build_state
from training.step import MicroBatch, token_logprobs, train_step

EVALUATION_SEED = 1 << 20
"Documents of this seed are only evaluated on; run.seed stays below it."


def run(
    *,
    model_cfg: ModelConfig,
    parallel_cfg: ParallelConfig,
    corpus: CorpusConfig,
    cfg: PretrainConfig,
    run_dir: Path,
    seed: int,
    tracker: Tracker,
    config: dict,
) -> Path:
    """Pre-train a base, or go on from cfg.checkpoint; -> run_dir/model in Hugging Face layout, tokenizer included.

    Every rank calls it, after parallel.init. A run cut short goes on from its last checkpoint. model_cfg: the shape,
    that of cfg.checkpoint if there is one. config: the resolved config, kept with every checkpoint. Raises ConfigError
    for rows of several documents with Transformer Engine.
    """
    if cfg.rows is Rows.packed and uses_te(model_cfg):
        problem = "Transformer Engine's causal attention would look across the documents of a row"
        raise ConfigError("pretrain.rows", "packed", problem, "set pretrain.rows=by_length, or model.modules=local")
    tokenizer = _tokenizer(corpus, cfg, run_dir, seed)
    start = checkpoint.resolve(Path(cfg.checkpoint)) if cfg.checkpoint else None
    if start is None:
        model_cfg = model_cfg.for_vocab(tokenizer.num_tokens)
    if cfg.data:
        stream, held_out = _own_data(tokenizer, cfg, model_cfg, run_dir, seed)
    else:
        stream, held_out = (_stream(tokenizer, corpus, each, model_cfg) for each in (seed, EVALUATION_SEED))
    state = build_state(model_cfg, cfg.optimizer, parallel_cfg, stage="pretrain", data=stream, init_from=start)
    schedule = Schedule(cfg.schedule, total=cfg.tokens)
    unseen = _micro_batches(_unseen(held_out, cfg, model_cfg), cfg, model_cfg, tokenizer.pad_id)

    def step(state: TrainState) -> dict[str, float]:
        now = schedule.at(state.tokens_seen, step=state.step)
        documents = _step_documents(stream, cfg, model_cfg, state.tokens_seen)
        batches = _micro_batches(documents, cfg, model_cfg, tokenizer.pad_id)
        metrics = train_step(state, batches, next_token_loss, now)
        return metrics | {"train/mtp_lambda": now.mtp_lambda} | mtp_acceptance()

    def evaluation(state: TrainState) -> dict[str, float]:
        logprobs = token_logprobs(state.model, unseen)
        loss = -sum(float((batch.loss_weights * lp.cpu()).sum()) for batch, lp in zip(unseen, logprobs, strict=True))
        return {"eval/loss": sum(parallel.gather_objects(loss)) / _copies(parallel_cfg)}

    run_loop(
        state,
        LoopConfig(evaluate_every=cfg.evaluate_every, save_every=cfg.save_every),
        name="pretrain",
        step_fn=step,
        run_dir=run_dir,
        config=config,
        tracker=tracker,
        total_tokens=cfg.tokens,
        evaluate_fn=evaluation,
    )
    return checkpoint.export(state, run_dir / "model", tokenizer)


def _tokenizer(corpus: CorpusConfig, cfg: PretrainConfig, run_dir: Path, seed: int) -> Tokenizer:
    """The run's tokenizer: cfg.checkpoint's, the one given, or one trained on the first documents of the corpus."""

    def train() -> None:
        if cfg.checkpoint:
            Tokenizer.load(checkpoint.resolve(Path(cfg.checkpoint))).save(run_dir)
        elif cfg.tokenizer:
            Tokenizer.load(Path(cfg.tokenizer)).save(run_dir)
        elif not (run_dir / "tokenizer.json").exists():
            texts = (document(corpus, seed, i) for i in range(cfg.tokenizer_documents))
            Tokenizer.train(texts, cfg.tokenizer_vocab).save(run_dir)

    parallel.on_main(train)
    return Tokenizer.load(run_dir)


def _stream(tokenizer: Tokenizer, corpus: CorpusConfig, seed: int, model_cfg: ModelConfig) -> DocumentStream:
    return DocumentStream(
        tokenizer.encode_batch,
        corpus,
        seed,
        eos_id=tokenizer.eos_id,
        max_document_tokens=model_cfg.max_position_embeddings,
    )


def _own_data(
    tokenizer: Tokenizer, cfg: PretrainConfig, model_cfg: ModelConfig, run_dir: Path, seed: int
) -> tuple[IndexedStream, IndexedStream]:
    """What is trained and evaluated on of pretrain.data, with a step to spare: steps round to whole rows."""
    row = model_cfg.max_position_embeddings
    return open_streams(
        cfg.data,
        cfg.data_shares,
        held_out=cfg.held_out_share,
        rows=-(-cfg.tokens // row) + max(1, cfg.batch_tokens // row),
        held_out_rows=cfg.evaluate_documents,
        row_tokens=row,
        tokenizer=tokenizer,
        seed=seed,
        cache=run_dir / "data_index",
    )


def _step_documents(
    stream: DocumentStream | IndexedStream, cfg: PretrainConfig, model_cfg: ModelConfig, tokens_seen: int
) -> Sequence[Sequence[int]]:
    """What one step trains on; joined rows are the documents then."""
    share = value_at(cfg.batch_points, tokens_seen) if cfg.batch_points else 1.0
    tokens, row = round(share * cfg.batch_tokens), model_cfg.max_position_embeddings
    return stream.next_rows(max(1, tokens // row), row) if cfg.rows is Rows.joined else stream.next_batch(tokens)


def _unseen(
    stream: DocumentStream | IndexedStream, cfg: PretrainConfig, model_cfg: ModelConfig
) -> Sequence[Sequence[int]]:
    """What is evaluated on."""
    if cfg.rows is Rows.joined:
        return stream.next_rows(cfg.evaluate_documents, model_cfg.max_position_embeddings)
    return [stream.next_document() for _ in range(cfg.evaluate_documents)]


def _micro_batches(
    documents: Sequence[Sequence[int]], cfg: PretrainConfig, model_cfg: ModelConfig, pad_id: int
) -> list[MicroBatch]:
    """This rank's share of the step's rows."""
    share = dict(
        rank=parallel.data_rank(), world=parallel.data_size(), max_tokens=cfg.micro_batch_tokens, pad_id=pad_id
    )
    if cfg.rows is Rows.joined:
        return joined_batches(documents, row_tokens=model_cfg.max_position_embeddings, **share)
    if cfg.rows is Rows.packed:
        return packed_batches(documents, row_tokens=model_cfg.max_position_embeddings, **share)
    return by_length_batches(documents, **share)


def _copies(cfg: ParallelConfig) -> int:
    """Ranks that hold the same share of the data."""
    return parallel.world() // parallel.data_size()
