"""Objects in physical units, from labels of any size.

:func:`measure_objects` writes one row per object. It works in passes over blocks that leave whole numbers behind, so
the table does not depend on how the volume was cut:

1. :mod:`~fewslice.measurement.sums` and :mod:`~fewslice.measurement.surface` – what is added up in a block;
2. :mod:`~fewslice.measurement.job` – blocks to disk, and objects merged from them;
3. :mod:`~fewslice.measurement.shapes`, :mod:`~fewslice.measurement.table` and :mod:`~fewslice.measurement.counts` –
   sums become shapes, columns and counts;
4. :mod:`~fewslice.measurement.objects` – all of it in order.
"""

from fewslice.measurement.job import Source
from fewslice.measurement.objects import Measurement, StoredPrediction, find_prediction, measure_objects

__all__ = ["Measurement", "Source", "StoredPrediction", "find_prediction", "measure_objects"]
