#!/bin/sh
# Before a trial's services start: a centre, two hospitals with phantoms, a study that both have approved.
# The commands are those of docs/guides/centre.md and hospital.md, with every person's part played by this script.
set -eu
cd /work
if [ -e ready ]; then echo "the trial is set up already"; exit 0; fi
rm -rf centre hospitals phantoms # of a set-up that was stopped

echo "1 of 4: synthetic scans of two hospitals"
asdnet-sim run --preset smoke --rounds 1 --no-local-only --no-pooled \
    --cache cache --out phantoms

echo "2 of 4: the centre, and its hospitals' keys"
asdnet-centre init --host superlink
for site in A B; do
    mkdir -p "hospitals/$site/state" "hospitals/$site/cache"
    chmod 700 "hospitals/$site/state"
    cat > "hospitals/$site/$site.yaml" <<FILE
site: $site
data: /work/phantoms/sites/$site
state: state
cache: cache
centre: superlink:9092
device: cpu
threads: 1
min_cases_reported: 1
limits: {min_cases: 1, min_patches: 1, min_local_steps: 1}
FILE
    asdnet-site enrol --site "$site" --configs "hospitals/$site" > /dev/null
    cp centre/ca.pem "hospitals/$site/state/ca.pem"
    cp centre/study.pub "hospitals/$site/state/centre.pub"
    asdnet-centre add-site "$site" --public-key "hospitals/$site/state/$site.pub" --max-cases 60
done

echo "3 of 4: the study, signed"
asdnet-centre run --preset smoke --name trial --queue

echo "4 of 4: both hospitals approve it"
manifest=centre/runs/trial/manifest.json
digest=$(python3 -c 'import hashlib, json, sys
print(hashlib.sha256(json.load(open(sys.argv[1]))["manifest"].encode()).hexdigest())' "$manifest")
for site in A B; do
    asdnet-site approve --site "$site" --configs "hospitals/$site" --file "$manifest" --yes "$digest"
done
touch ready
