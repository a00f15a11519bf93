"""The embedded data set: a thorax is planned (anatomy, vessels, lesions), then rendered as a CT scan.

The thorax is scaled down to keep the volumes small; voxels, HU, vessels and lesions are as in life. Planning is exact
and cheap and decides every label; rendering turns a plan into voxels. Points are (n, 3) arrays of x, y, z in
millimetres from the thorax's centre, x to the patient's left, y to the back, z to the head; fields are arrays over
z, y, x.
"""
