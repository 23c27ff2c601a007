"""Planning: what more labels would bring, and what to annotate next.

1. `opening` – a finished run with the images and labels that it was trained on.
2. `ladder` – which of the annotated planes train, and which judge: folds, and nested subsets within each.
3. `measurement` – a short training for every subset, judged on the planes its fold holds out; kept and resumed.
4. `learning_curve` – Dice against the number of planes as an inverse power law, with a posterior over its parameters.
5. `uncertainty` – how uncertain each plane of a prediction is, and each pixel of a plane.
6. `selection` – the next planes and windows, from uncertainty and distance to what is annotated.
7. `plan` – joins all of it into what ``fewslice plan`` prints and stores, with its advice.

2, 4 and 6 are functions of numbers and arrays alone.
"""

from __future__ import annotations
