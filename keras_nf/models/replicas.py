"""Training by several replicas: the devices of a machine, or workers, each a process of its own."""

import contextlib
import functools
import json
import zlib

import keras
import tensorflow as tf

from keras_nf.layout import has_accelerator

__all__ = ["ReplicatedModel", "as_one_batch", "by_chief", "refuse_no_rows", "seed_of_all"]


class ReplicatedModel(keras.Model):
    """Model that trains and evaluates the same on any number of replicas.

    Keras takes the mean over the replicas of their mean losses, whatever their numbers of rows:
    see `as_one_batch`. It fails with several workers, for it reduces what they report, scalars,
    along an axis. Here they report vectors of one number, which any way of reducing leaves so.
    """

    def get_metrics_result(self):
        logs = super().get_metrics_result()
        is_replica = not tf.distribute.in_cross_replica_context()
        if not (is_replica and has_workers(tf.distribute.get_strategy())):
            return logs
        return keras.tree.map_structure(lambda value: tf.reshape(value, (1,)), logs)

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            super().make_train_function(force)
            self.train_function = self._reporting_scalars(self.train_function)
        return self.train_function

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            super().make_test_function(force)
            self.test_function = self._reporting_scalars(self.test_function)
        return self.test_function

    def _reporting_scalars(self, function):
        if not has_workers(self.distribute_strategy):
            return function
        if self.steps_per_execution != 1:
            raise ValueError(
                "Several workers take single steps, for in loops of TensorFlow their exchange "
                f"fails. Received: steps_per_execution={self.steps_per_execution}. Leave it out "
                "of `compile`."
            )

        def report(iterator):
            return keras.tree.map_structure(lambda v: tf.reshape(v, ()), function(iterator))

        return report

    def _weights_scope(self):
        """Return the context in which weights are made: the scope of the model's strategy."""
        is_inside = tf.distribute.has_strategy() or self._distribute_strategy is None
        return contextlib.nullcontext() if is_inside else self._distribute_strategy.scope()

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras would draw a batch, which changes the order of what is shuffled, and takes the mean
        # over the replicas' parts of it, which may differ in their rows.
        if iterator is not None and self._distribute_strategy is not None:
            specs = iterator._distributed_dataset.element_spec
            data_batch = keras.tree.map_structure(_spec_of_first, specs)
        super()._maybe_symbolic_build(data_batch=data_batch)

    def fit(self, *args, callbacks=None, **kwargs):
        is_list = isinstance(callbacks, keras.callbacks.CallbackList)
        if has_workers(self.distribute_strategy) and not is_list:
            # After those of the user, of which one may restore a backup.
            callbacks = [*(callbacks or []), _Agreement()]
        return super().fit(*args, callbacks=callbacks, **kwargs)


def _spec_of_first(spec):
    """Return the spec of what the first replica gets."""
    return getattr(spec, "_value_specs", [spec])[0]


def has_workers(strategy):
    """Return whether a strategy is one of several processes."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def is_chief(strategy):
    """Return whether this process is the one that writes files."""
    if not has_workers(strategy):
        return True
    resolver = strategy.cluster_resolver
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_id == 0 and resolver.task_type == ("chief" if has_chief else "worker")


def by_chief(write):
    """Let the chief alone run a function that writes a model to files."""

    @functools.wraps(write)
    def by_one(model, *args, **kwargs):
        # What is no model has no strategy, and is for the function to refuse.
        if is_chief(getattr(model, "distribute_strategy", None)):
            write(model, *args, **kwargs)

    return by_one


def as_one_batch(loss, rows):
    """Return a replica's loss, a mean over its rows, with gradients for the rows of all replicas.

    The sum of the gradients over replicas is then that of the mean over all their rows.

    Args:
      loss: the mean, divided by the number of replicas, as Keras has it.
      rows: number of rows of this replica.
    """
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return loss
    rows = tf.cast(rows, loss.dtype)
    mean_rows = replica.all_reduce(tf.distribute.ReduceOp.MEAN, rows)
    weighted = loss * rows / mean_rows
    return weighted + tf.stop_gradient(loss - weighted)


def refuse_no_rows(x):
    """Return images as they are; refuse those of a replica that gets none of a batch, on a CPU.

    TensorFlow 2.21 gives a convolution of no rows the wrong shape there.
    """
    if tf.distribute.get_strategy().num_replicas_in_sync == 1 or has_accelerator():
        return x
    message = (
        "A replica got no rows of a batch of images, of which TensorFlow has no convolution on a "
        "CPU. Leave out what remains of the rows: `batch(size, drop_remainder=True)` of a dataset."
    )
    with tf.control_dependencies([tf.debugging.assert_positive(tf.shape(x)[0], message)]):
        return tf.identity(x)


def seed_of_all(seed, strategy):
    """Return the chief's seed on all workers, so that they shuffle alike."""
    if not has_workers(strategy):
        return seed
    return int(_gather(tf.constant([seed], tf.int64), strategy)[0])


def _gather(values, strategy):
    """Return the values of all replicas, along the first axis."""

    def gather():
        return strategy.gather(strategy.run(lambda: tf.identity(values)), axis=0)

    # Calls of a concrete function do not count as retracing, of which TensorFlow would warn.
    return tf.function(gather).get_concrete_function()().numpy()


class _Agreement(keras.callbacks.Callback):
    """Refuses to train models that are not the same on all workers."""

    def on_train_begin(self, logs=None):
        strategy = self.model.distribute_strategy
        parts = {
            "flows": _sum_of_config(self.model.flow),
            "weights": zlib.crc32(b"".join(w.tobytes() for w in self.model.get_weights())),
            "steps": int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)),
            "epochs": self.model._initial_epoch or 0,
        }
        theirs = _gather(tf.constant([list(parts.values())], tf.int64), strategy)
        differs = (theirs != theirs[0]).any(axis=0)
        if not differs.any():
            return
        differing = [name for name, differs in zip(parts, differs) if differs]
        raise ValueError(
            "Workers must start from the same model. Received: models whose "
            f"{' and '.join(differing)} differ. Call keras.utils.set_random_seed with the same "
            "seed on each worker before it makes the flow, and let all of them restore the same "
            "backup, from a directory that they share."
        )


def _sum_of_config(layer):
    """Return a checksum of a layer's config without names, which count what was made before."""

    def without_names(config):
        if isinstance(config, dict):
            return {
                k: without_names(v)
                for k, v in config.items()
                if k not in ("name", "shared_object_id")
            }
        return [without_names(v) for v in config] if isinstance(config, (list, tuple)) else config

    config = without_names(keras.saving.serialize_keras_object(layer))
    return zlib.crc32(json.dumps(config, sort_keys=True, default=str).encode())
