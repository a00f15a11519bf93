"""Turn CT scans in LUNA16's format into a trained, evaluated, tracked nodule classifier.

The flow, one stage a line:
    fetch-subsets       a source                      -> data/raw/PART
    merge-annotations   data/raw                      -> scans, nodules, excluded, candidates
    build-cache         data/raw, candidates          -> crops.json and the crop cache
    train               candidates, crops             -> models, reports/train
    predict             models, candidates, crops     -> predictions, gallery
    evaluate            predictions, nodules, scans   -> reports/metrics.json, reports/plots

Suffixes: `_irc` voxel index, row, column; `_xyz` patient millimetres (LPS, as in LUNA16); `_mm` a length;
`_hu` an intensity. Where two kinds meet in one function: `_a` a numpy array, `_t` a CPU tensor, `_g` a tensor
on the device.
"""
