// A chart of the page as an image file, with the colors that the page shows.

/** The properties that the style sheet sets on a drawing; as attributes, any image program understands them. */
const PROPERTIES = [
  ...['fill', 'fill-opacity', 'opacity', 'stroke', 'stroke-width', 'stroke-dasharray', 'font-size'],
  ...['font-weight', 'font-family', 'text-anchor', 'visibility'],
];

/** Pixels of an image per unit of the drawing. */
const SCALE = 2;

/** Copies the styles that apply to `from` and everything in it to the same elements of `to`. */
function copyStyles(from: Element, to: Element): void {
  const style = getComputedStyle(from);
  for (const name of PROPERTIES) to.setAttribute(name, style.getPropertyValue(name));
  for (const [i, child] of [...from.children].entries()) copyStyles(child, to.children[i]!);
}

/** The drawing as an SVG that needs no style sheet, on the background of its panel. */
export function svgOf(chart: Element): string {
  const svg = chart.querySelector('svg')!;
  const { width, height } = svg.viewBox.baseVal;
  const copy = svg.cloneNode(true) as SVGSVGElement;
  copyStyles(svg, copy);
  copy.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
  copy.setAttribute('width', String(width));
  copy.setAttribute('height', String(height));
  const ground = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
  for (const [name, value] of Object.entries({ width: '100%', height: '100%', fill: groundOf(chart) }))
    ground.setAttribute(name, value);
  copy.prepend(ground);
  return new XMLSerializer().serializeToString(copy);
}

function groundOf(chart: Element): string {
  return getComputedStyle(chart.closest('.panel') ?? document.body).backgroundColor;
}

/** The drawing as PNG, two pixels per unit. */
export async function pngOf(chart: Element): Promise<Blob> {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svgOf(chart))}`;
  await image.decode();
  const canvas = document.createElement('canvas');
  canvas.width = image.width * SCALE;
  canvas.height = image.height * SCALE;
  canvas.getContext('2d')!.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) =>
    canvas.toBlob((blob) =>
      blob === null ? reject(new Error('the browser could not make an image')) : resolve(blob),
    ),
  );
}
