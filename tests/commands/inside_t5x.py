"""What the report of a run inside T5X has besides."""

SECTION = {
  "revision": None,
  "is_modified": None,
  "version": "0",
  "began_at": 0,
  "files_sha256": "0" * 64,
  "partitioning": {
    "partitioner": "PjitPartitioner",
    "mesh": {"data": 1, "model": 1},
    "num_devices": 1,
    "num_partitions": 1,
    "model_parallel_submesh": None,
    "logical_axis_rules": [],
    "num_microbatches": None,
  },
}
