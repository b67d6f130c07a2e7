// Every call of OHIF's MONAI Label client, with an argument as OHIF's panel gives it. Runs in node and in a page.
export async function callAll(MonaiLabelClient, address, series, voxels) {
  const client = new MonaiLabelClient(address);
  const done = {};
  const keep = (name, response) => {
    done[name] = { status: response.status, data: response.data, message: response.message };
    return response.data;
  };
  keep('info', await client.info());
  keep('next_sample', await client.next_sample('first', { client_id: 'ohif' }));
  const automatic = keep('infer automatic', await client.infer('automatic', series, {}));
  const clicks = { background: [], right: [[5, 9, 2]] };
  keep('infer clicks', await client.infer('clicks', series, clicks));
  const object = { foreground: [[5, 9, 2]], background: [[11, 9, 4]] };
  keep('infer object', await client.infer('object', series, object));
  const label = new Blob([voxels], { type: 'application/octet-stream' });
  keep('save_label', await client.save_label(series, label, { label_info: [] }));
  done['is_train_running'] = { status: 200, data: await client.is_train_running() };
  keep('run_train', await client.run_train({}));
  keep('stop_train', await client.stop_train());
  done['segmentation'] = { status: 200, data: automatic };
  return done;
}
