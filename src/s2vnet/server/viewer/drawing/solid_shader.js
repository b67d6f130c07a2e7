// Shader of the 3D view: labels as lit surfaces, others than the class in focus as a veil, and the image as a cloud.
// NiiVue's own renders labels in flat colours. It sets the uniforms by their names.

export const VERTEX = `#version 300 es
layout(location=0) in vec3 pos;
layout(location=1) in vec3 texCoords;
uniform mat4 mvpMtx;
out vec3 vColor;
void main() {
  gl_Position = mvpMtx * vec4(pos, 1.0);
  vColor = texCoords;
}`;

export const FRAGMENT = `#version 300 es
precision highp int;
precision highp float;
uniform vec3 rayDir;
uniform vec3 texVox;
uniform vec3 volScale;
uniform float backOpacity;
uniform highp sampler3D volume, drawing;
uniform highp sampler2D colormap;
in vec3 vColor;
out vec4 fColor;

float labelAt(vec3 place) {
  return floor(texture(drawing, place).r * 255.0 + 0.5);
}

vec4 colorOf(float label) {
  float rows = float(textureSize(colormap, 0).y);
  return label < 0.5 ? vec4(0.0) : texture(colormap, vec2((label + 0.5) / 256.0, (rows - 0.5) / rows));
}

float isLabel(vec3 place, float label) {
  return labelAt(place) == label ? 1.0 : 0.0;
}

vec3 normalAt(vec3 place, float label) {
  vec3 gradient = vec3(0.0);
  for (int x = -1; x <= 1; x++) for (int y = -1; y <= 1; y++) for (int z = -1; z <= 1; z++) {
    vec3 offset = vec3(x, y, z);
    gradient -= offset * isLabel(place + 1.6 * offset / texVox, label);
  }
  vec3 normal = gradient * texVox / volScale;
  return length(normal) > 0.0 ? normalize(normal) : -normalize(rayDir);
}

vec3 lit(vec3 color, vec3 normal) {
  vec3 view = -normalize(rayDir);
  vec3 light = normalize(view + vec3(0.2, 0.1, 0.5));
  float diffuse = max(dot(normal, light), 0.0);
  float shine = pow(max(dot(normal, normalize(light + view)), 0.0), 24.0);
  return color * (0.3 + 0.75 * diffuse) + 0.12 * shine;
}

void main() {
  vec3 start = vColor;
  vec3 inverse = 1.0 / rayDir;
  vec3 far = max(inverse * (volScale - start * volScale), inverse * (-start * volScale));
  vec3 end = start + rayDir * min(far.x, min(far.y, far.z)) / volScale;
  float steps = length((end - start) * texVox);
  gl_FragDepth = 0.5;
  fColor = vec4(0.0);
  if (steps < 0.5) discard;
  vec3 by = (end - start) / steps;
  vec3 place = start;
  float before = 0.0;
  for (float n = 0.0; n < steps; n += 1.0, place += by) {
    if (backOpacity > 0.0) {
      float shade = texture(volume, place).r;
      float cloud = backOpacity * 0.12 * smoothstep(0.3, 0.9, shade);
      fColor += (1.0 - fColor.a) * cloud * vec4(vec3(shade), 1.0);
    }
    float label = labelAt(place);
    if (label == before) continue;
    before = label;
    vec4 color = colorOf(label);
    if (color.a < 0.01) continue;
    vec3 hit = place, step = by;
    for (int m = 0; m < 4; m++) {
      step *= 0.5;
      hit += labelAt(hit) == label ? -step : step;
    }
    vec3 normal = normalAt(hit, label);
    if (color.a < 0.9) color.a *= 1.6 - 1.2 * abs(dot(normal, normalize(rayDir))); // a veil is denser at its rim
    fColor += (1.0 - fColor.a) * color.a * vec4(lit(color.rgb, normal), 1.0);
    if (fColor.a > 0.97) break;
  }
  if (fColor.a > 0.0) fColor.rgb /= fColor.a;
}`;
